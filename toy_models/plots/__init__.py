"""Pictures of toy models: functions that take results and axes."""
