"""Where the program starts. Ctrl-C while the rest is being imported ends it as it does later, with 130."""


def main() -> int:
    try:
        from tuned_spec.cli import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
