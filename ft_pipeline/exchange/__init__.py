"""Other trainers' projects and providers' files into a project (`ft import`), and rows out of it (`ft export-data`)."""
