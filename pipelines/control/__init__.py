"""ControlNets, ControlNet-Unions and T2I-Adapters: from files to steering a drawing."""
