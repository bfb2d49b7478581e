"""What the project tells about itself: log events, metrics, and the statistics page that both sides share."""
