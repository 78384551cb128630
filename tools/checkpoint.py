#!/usr/bin/env python
"""Look at, check, convert and average checkpoints; see --help."""

import sys

from lazyengine.cli.checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
