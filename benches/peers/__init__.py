"""Side by side with other Python servers: `python -m peers`, from benches/."""
