"`python -m mlserve`, where the command `mlserve` is not installed, as in a slug"

from mlserve.command import main

main()
