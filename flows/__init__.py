"""flows: the command line and the Prefect flows. Thin: both call the same functions of segcore."""
