"""`python -m flowgroup`."""

from flowgroup.cli import main

if __name__ == "__main__":
    main()
