"""
Digits: half of the network, all of the accuracy
================================================
"""

print(1)
