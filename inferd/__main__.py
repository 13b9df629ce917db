"""`python -m inferd` is `inferd`."""

from inferd.cli import main

main()
