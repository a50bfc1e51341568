/* jobs, for tests of the types of user programs; each job that is done it prints, too. Made by:
 *   gcc -g -gdwarf-5 -O1 -fno-inline -fcf-protection=none -Wl,--build-id -ffile-prefix-map=$PWD=. -o jobs jobs.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { IDLE, COPY = 5, PRINT };
typedef struct owner { int uid; char name[8]; } owner_t;
struct job {
	const char *title;
	struct job *next;
	enum kind kind;
	unsigned urgent : 1, level : 4;
	signed char change;
	owner_t owner;
	double share;
	union { long pages; unsigned char raw[8]; } size;
	const owner_t *payer;
};

static long total;

struct job *done(struct job *job, enum kind least)
{
	total += job->size.pages;
	return job->kind >= least ? job->next : NULL;
}

int main(int argc, char **argv)
{
	struct job *last = NULL;
	int count = argc > 1 ? atoi(argv[1]) : 3;

	for (int n = 0; n < count; n++) {
		struct job *job = calloc(1, sizeof(*job));
		char *title = malloc(16);
		snprintf(title, 16, "job %d", n);
		job->title = title;
		job->next = last;
		job->kind = n % 2 ? PRINT : COPY;
		job->urgent = n == 2;
		job->level = 9 + n;
		job->change = -n;
		job->owner.uid = 1000 + n;
		strcpy(job->owner.name, n % 2 ? "bob" : "alice");
		job->share = n / 4.0;
		job->size.pages = 100 * n;
		job->payer = last ? &last->owner : NULL;
		last = job;
		struct job *after = done(job, PRINT);
		printf("%p %p %s %d\n", (void *)job, (void *)after, title, job->level);
	}
	return 0;
}
