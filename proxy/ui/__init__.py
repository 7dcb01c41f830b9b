"""The files of MLflow's UI, served from here: compressed once, and also while MLflow is away."""
