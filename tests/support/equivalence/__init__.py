# SPDX-License-Identifier: Apache-2.0
"""Linux is the reference: the same packets through one node with the fast path off and on, outputs compared."""
