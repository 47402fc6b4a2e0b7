"""Make report.html of an evaluation again, or compare evaluations of the same scenes."""

from imf_jax.commands.report import run

if __name__ == "__main__":
    run()
