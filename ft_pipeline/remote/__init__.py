"""Remote sources: raw files on web servers, the Hugging Face Hub and S3. sources/fetch.py says when they are asked."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="remote",
    about="Raw files are read from web servers, the Hugging Face Hub and S3.",
    docs="formats.md",
    choices={
        "remote": {
            "hf": "ft_pipeline.remote.hub:HubAccess",
            "s3": "ft_pipeline.remote.s3:S3Access",
            "https": "ft_pipeline.remote.web:WebAccess",
            "http": "ft_pipeline.remote.web:WebAccess",
        }
    },
)
