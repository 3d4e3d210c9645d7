"""`python -m fcf_jax`, the same as `fcf`."""

import sys

from fcf_jax.cli import main

sys.exit(main())
