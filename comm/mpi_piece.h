/* The one thing about the MPI communicator that its tests must reach. */
#ifndef HISA_COMM_MPI_PIECE_H
#define HISA_COMM_MPI_PIECE_H

#include "comm/comm.h"

/* Longest message between two ranks, in bytes, 1 to INT_MAX; longer parts go in pieces. Equal on all ranks. comm must
 * be one of hisa_comm_create_mpi. Local. */
void hisa_comm_mpi_set_piece(hisa_comm_t *comm, int64_t bytes);

#endif
