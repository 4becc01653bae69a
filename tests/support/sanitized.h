/* HISA_SANITIZED: 1 under the address sanitizer, which makes the suites ten times slower: they run fewer random cases.
 */
#ifndef HISA_TESTS_SANITIZED_H
#define HISA_TESTS_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__)
#define HISA_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HISA_SANITIZED 1
#endif
#endif
#ifndef HISA_SANITIZED
#define HISA_SANITIZED 0
#endif

#endif
