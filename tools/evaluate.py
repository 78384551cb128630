#!/usr/bin/env python
"""Compute metrics from saved predictions."""

import sys

from lazyengine.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
