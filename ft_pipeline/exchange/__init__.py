"""Other trainers' projects and providers' files into a project (`ft import`), and rows out of it (`ft export-data`)."""

from ft_pipeline.features import Feature

FEATURE = Feature(
    name="exchange",
    about="Projects and files of other trainers become a project, and rows become files for other tools.",
    docs="importing.md",
    commands={
        "import": "ft_pipeline.exchange.commands:importer",
        "export-data": "ft_pipeline.exchange.commands:export_data",
    },
)
