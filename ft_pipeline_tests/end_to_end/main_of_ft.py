"""The command `ft`, as a module that a fork of a test can run (project.ft_forked)."""

from ft_pipeline.cli import main

if __name__ == "__main__":
    main()
