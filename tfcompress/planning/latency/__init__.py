"""How long a network's file takes: times of single layers, from small files of one layer each."""
