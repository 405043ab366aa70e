"""IP-Adapters: pictures that a drawing takes after."""
