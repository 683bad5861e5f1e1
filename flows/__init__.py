"""The DAG: pipeline, stages, configuration, command line."""
