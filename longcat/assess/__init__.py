"""Can a training workload move to Ascend: today's utilisation, the plan on the target, what to port, and whose stack it is."""
