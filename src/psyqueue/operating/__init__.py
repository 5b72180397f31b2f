"""What operators see and do, for whichever surface: filters over jobs, looks at queues and workers."""
