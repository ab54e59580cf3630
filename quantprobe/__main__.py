"""`python -m quantprobe`."""

from quantprobe.cli.main import main

if __name__ == "__main__":
    main()
