/* A hisa communicator over MPI. Part of the library only where it was built with HISA_MPI. */
#ifndef HISA_MPI_H
#define HISA_MPI_H

#include <mpi.h>

#include "hisa/hisa.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A communicator over the ranks of mpi_comm, in their order, for host memory. Collective over mpi_comm, which is
 * duplicated: the caller keeps its own. MPI must be initialised, and hisa_comm_destroy be called before MPI_Finalize.
 * hisa calls on different communicators from different threads need MPI_THREAD_MULTIPLE.
 *
 * Once a peer is lost (HISA_ERR_TIMEOUT, HISA_ERR_COMM) MPI may still read or write the buffers of the call that gave
 * up, whenever it makes progress, even after hisa_comm_destroy, and MPI_Finalize may wait for the lost peer: such a
 * program does best to end. */
HISA_API hisa_status_t hisa_comm_create_mpi(MPI_Comm mpi_comm, hisa_comm_t **comm);

#ifdef __cplusplus
}
#endif
#endif
