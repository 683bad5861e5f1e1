"""Installing and deploying: detectron2, Prefect deployments."""
