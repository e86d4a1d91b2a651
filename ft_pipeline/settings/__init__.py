"""The YAML files of a project as typed models."""
