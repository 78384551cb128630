#!/usr/bin/env python
"""Train or evaluate an experiment; the same as ``lazyengine train``."""

import sys

from lazyengine.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
