"""The local web app that shows runs: `qednano view`. Reads artifacts; the only thing it writes is human grades."""
