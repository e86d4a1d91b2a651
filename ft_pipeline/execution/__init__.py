"""Specs, workers, supervision, device leases, planning."""
