"""What a run says of itself: metrics, progress, curves, traces and the collapse alarm."""
