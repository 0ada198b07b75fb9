"""What happens when the machine fails: kills, full disks, hostile files, little memory."""
