"""Workers on a cluster of Ray or SLURM: jobs that need a device run on its nodes."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="clusters",
    about="Jobs that need a device run on a Ray or SLURM cluster.",
    docs="clusters.md",
    choices={
        "launcher": {
            "ray": "ft_pipeline.clusters.launchers:ray_launcher",
            "slurm": "ft_pipeline.clusters.launchers:slurm_launcher",
        }
    },
)
