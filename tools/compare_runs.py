#!/usr/bin/env python
"""Put runs side by side; see --help."""

import sys

from lazyengine.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
