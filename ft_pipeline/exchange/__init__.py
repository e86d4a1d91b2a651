"""Projects of other trainers, files of providers: into a project (`ft import`), and rows out of it (`ft export-data`)."""
