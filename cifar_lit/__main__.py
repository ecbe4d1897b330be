"""python -m cifar_lit."""

from cifar_lit.cli import main

if __name__ == "__main__":
    main()
