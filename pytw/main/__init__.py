"""Process mains: master, worker, fork server, mock. They wire the rooms and decide nothing."""
