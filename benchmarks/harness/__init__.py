"""What measurements share: corpora, peers, fresh processes, simulated ranks, records and their printing."""
