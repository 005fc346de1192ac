"""The command line: ``python -m csc_nets``, and ``csc-nets`` where the package is installed."""

from csc_nets.commands import main

if __name__ == "__main__":
    main()
