"""How runs execute."""

import dagster as dg


@dg.definitions
def executor() -> dg.Definitions:
    """One process per run: the heavy steps start workers of their own, and one more process per step would only cost.

    On Kubernetes set Dagster's k8s_job_executor here; the GPU op tags act there.
    """
    return dg.Definitions(executor=dg.in_process_executor)
