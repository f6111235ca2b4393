"""`python -m alignjax` is the console command."""

import sys

from alignjax import main

sys.exit(main.main())
