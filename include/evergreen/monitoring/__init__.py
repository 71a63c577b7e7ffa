"""The nightly watch: drift, realised performance, freshness, and what follows from them."""
