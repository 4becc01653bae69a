/* The one place that states the version; CMake reads it from here. */
#ifndef HISA_VERSION_H
#define HISA_VERSION_H

#define HISA_VERSION_MAJOR 0
#define HISA_VERSION_MINOR 1
#define HISA_VERSION_PATCH 0

#endif
