#!/usr/bin/env python
"""Show a config: the tree, where values came from, what can be overridden."""

import sys

from lazyengine.cli.show import main

if __name__ == "__main__":
    sys.exit(main())
