"""What gates that learn may cost: targets, prices, predicted latency."""
