"""Layer 5: the console command `clipjax`."""
