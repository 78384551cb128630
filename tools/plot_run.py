#!/usr/bin/env python
"""Draw the curves of runs; see --help."""

import sys

from lazyengine.cli.plot import main

if __name__ == "__main__":
    sys.exit(main())
