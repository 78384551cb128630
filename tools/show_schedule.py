#!/usr/bin/env python
"""Draw the learning-rate schedule of a config without training."""

import sys

from lazyengine.cli.schedule import main

if __name__ == "__main__":
    sys.exit(main())
