"""`python -m etl.cli`: what jobs of a cluster call, where no script `xycd` need be on the path."""

from etl.cli.app import main

if __name__ == "__main__":
    main()
