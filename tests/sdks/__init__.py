"""Programs that use the published SDKs, and where those are installed."""
