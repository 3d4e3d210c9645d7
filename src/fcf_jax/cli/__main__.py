"""`python -m fcf_jax.cli`."""

import sys

from fcf_jax.cli import main

sys.exit(main())
